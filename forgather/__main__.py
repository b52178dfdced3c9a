"""`python -m forgather`: the command line, where its script is not on the PATH."""

from forgather_cli.program import main

if __name__ == "__main__":
    main()
