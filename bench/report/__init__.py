"""Result files, and the tables and comparisons made from them."""
