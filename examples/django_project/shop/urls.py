"""The URLs of the project."""

from django.urls import path

from goplugins.contrib.django.views import health
from shop.views import show

urlpatterns = [path("quote/<symbol>", show), path("health/plugins", health)]
