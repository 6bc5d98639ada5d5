"""One model made of several classes: extension by packages, delegation, polymorphic collections."""
