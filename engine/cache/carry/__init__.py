"""Cache mounts carried to a registry and back: what did not change does not travel.

A mount's files are cut into *chunks* by their content (`chunks`), and new chunks are put together into *packs*, which are blobs.
A *listing* says of every path what it is and which chunks it is made of, and of every chunk in which pack it lies. One manifest
for each mount has the listing as its config and the packs as its layers (`artifact`). A later state refers to the packs that are
there already, and adds packs of what is new; packs most of whose chunks nobody needs any more are written anew (`plan`).

`survey`, `packing` and `unpacking` are the jobs of worker processes, since files may belong to ids that only those know; `save`
and `restore` have them done; a `carrier` is what one build knows of all this.
"""
