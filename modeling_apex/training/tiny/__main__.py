"""`python -m modeling_apex.training.tiny`: train the embedded demonstration model anew."""

from modeling_apex.training.tiny.recipe import main

if __name__ == "__main__":
    main()
