"""What GR4AD is held against: models and searches of others, built as their users build them."""
