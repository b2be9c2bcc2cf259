"""What user code sees: the operation's context, its journal, its steps. Calls flow in, mutations flow out."""
