"""What people look at: tables, plots, timelines, pages."""
