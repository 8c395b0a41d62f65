# The process tokens are pooled from the memory to 18 × 18 at any image size; the memory grows with the image.
_base_ = './vittm-b_28-28_segmenter_8xb2-160k_ade20k-504x504.py'
model = dict(backbone=dict(process_embed=dict(_delete_=True, type='PooledTokens', grid=18)))
