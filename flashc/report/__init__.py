"""I/O reports: bound, chosen schedule, simulation and plots of one workload on one device."""
