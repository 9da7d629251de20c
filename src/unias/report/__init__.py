"""What an evaluation shows: tables in the paper's form, figures, and one page that opens without a network."""
