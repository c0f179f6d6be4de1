"""A dataset whose videos and words were encoded before: shards of latents and text states.

    latents/dataset.json        what a dataset says, and `latents`: of which weights, in which numbers and colours
    latents/texts.safetensors   states of the words that name modalities, and of no words
    latents/general/            shards as of any dataset: a latent in place of each video, and a caption's states

They come in the order of the clips that they were made of, and know its shards, so that training draws from both
alike. `python -m unity.data.latents` makes them; nothing here but that command knows of models.
"""
