"""`python -m treaty` is the `treaty` command."""

from treaty.cli.main import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
