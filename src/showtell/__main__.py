"""`python -m showtell` is the command `showtell`."""

from showtell.cli import main

if __name__ == "__main__":
    main()
