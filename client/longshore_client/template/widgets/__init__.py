"""Makes things, and loses none of them."""
