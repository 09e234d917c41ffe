pub enum PrintMode {}
