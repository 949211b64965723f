"""Commands that study what an adapter learned."""
