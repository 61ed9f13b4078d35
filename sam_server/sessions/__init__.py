"""What is kept between requests: pictures, embeddings, logits and mask sets, within one budget of bytes."""
