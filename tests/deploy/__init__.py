"""What is deployed: compose file, image, chart, pipelines."""
