"""What all configurations of transformers have."""

_ORIGIN = ("transformers_version", "_name_or_path", "_commit_hash", "_attn_implementation*", "torch_dtype", "dtype")
_OUTPUTS = ("use_cache", "return_dict", "return_dict_in_generate", "output_attentions", "output_hidden_states")
_LABELS = ("*_token_id", "id2label.*", "label2id.*", "num_labels", "problem_type", "initializer_range", "vocab_size")
COMMON_FIELDS = (*_ORIGIN, *_OUTPUTS, *_LABELS)
"""Fields that change nothing of what given weights compute."""
