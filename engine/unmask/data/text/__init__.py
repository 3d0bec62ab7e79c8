"""Raw text: finding the files of an input, reading and decoding them, cleaning, sentences, words."""
