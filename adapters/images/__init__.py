"""The bytes of kept pictures and their thumbnails: in a folder, or in a bucket of anything that speaks S3."""
