"""Settings of the shop; ports come from the environment."""

import os

SECRET_KEY = "not a secret, this is a test"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shop_django.urls"
INSTALLED_APPS = ["shop_django"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": os.environ["PG_PORT"],
        "USER": "postgres",
        "NAME": "shop",
        "CONN_MAX_AGE": 600,
    }
}
APPEND_SLASH = False
LOGGING_CONFIG = None
