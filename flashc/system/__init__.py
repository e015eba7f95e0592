"""What flashc needs of the machine it runs on: the artefact cache and the C++ toolchain."""
