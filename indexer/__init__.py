"""The write path: finds pictures and texts, embeds them, writes them into a library."""
