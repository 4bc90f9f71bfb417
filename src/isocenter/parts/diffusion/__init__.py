"""Images out of noise: how noise is added, what is learnt from that, and how it is taken away again."""
