"""Jobs: private durable work behind operations. Definitions, what code sees of them, and what runs them."""
