"""The APIs of other packages on sserpent's delivery, each in a module of its own."""
