"""The embedded data set `jaxseg_nuclei`, in the layout of a tensorflow-datasets builder."""
