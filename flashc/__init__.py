"""flashc: a hardware-portable kernel compiler and autotuner."""
