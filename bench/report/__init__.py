"""Result files, and the tables, pictures and comparisons made from them."""
