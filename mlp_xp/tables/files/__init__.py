"""Files of tables: CSV, Parquet, Arrow, folders, their cache; `opening` gives what a path holds."""
