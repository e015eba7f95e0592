"""The commands of the command line, one module each; a module imports what it runs only when it runs."""
