"""`python -m mlp_xp` is `mlp-xp`."""

from mlp_xp.cli import main

if __name__ == "__main__":
    main()
