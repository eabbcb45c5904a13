"""Many pictures at once: folders captioned, alt text written where browsers and photo managers look for it, speech."""
