"""The processes of one run: started together, heard together, ended together; one alone is a world of its own."""
