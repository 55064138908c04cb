"""python -m bisd: the same as the command bisd."""

from bisd.cli import main

if __name__ == "__main__":
    main()
