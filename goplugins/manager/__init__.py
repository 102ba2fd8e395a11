"""The facade, and what runs behind it."""

from goplugins.manager.manager import Manager as Manager
