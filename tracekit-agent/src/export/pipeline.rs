pub struct Handle; pub struct Pipeline; pub struct Summary;
