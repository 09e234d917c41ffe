"""The shop on Django: ORM and raw SQL over psycopg 3, the same routes as shop_flask."""
