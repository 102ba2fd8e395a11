"""Settings of the project; goplugins needs one application, one middleware and one setting."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parents[1]
SECRET_KEY = os.environ.get("SECRET_KEY", "of an example")
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "shop.urls"
USE_TZ = True

INSTALLED_APPS = ["goplugins.contrib.django"]
MIDDLEWARE = ["goplugins.contrib.django.middleware.PluginCallsMiddleware"]
GOPLUGINS = {"CONFIG": BASE_DIR / "plugins.yaml", "TIMEOUT": "3s"}
