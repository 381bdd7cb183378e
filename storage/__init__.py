"""Where state rests: latest-state stores, and the Parquet lake."""
