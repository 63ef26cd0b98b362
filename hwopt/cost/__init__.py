"""What a program costs on a machine: tables, kernel, reference."""
