"""What a mask is: RLE, polygons, PNG, measures, the record that is sent. No model in here."""
