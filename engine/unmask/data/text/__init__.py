"""Raw text: which files an input has, how they are read and decoded, cleaning, sentences, words."""
