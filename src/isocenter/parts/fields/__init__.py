"""Maps from one image to another: displacements, affine matrices, their algebra, and the search for them.

A displacement lives on the fixed image's grid and says where in the moving image to look (pull):

    warped(x) = moving(x + u(x))

In torch it is (batch, dims, *space), its components in array order and in voxels; times the spacing it is the
field that `parts/metrics/registration.py` judges. On files and between grids it is (batch, 3, *space), its
components x, y, z in RAS+ millimetres. Affine matrices go the same way, from fixed points to moving points.
"""
