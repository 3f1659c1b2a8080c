"""What other libraries and people call the things that have names here, for "did you mean"."""

from collections.abc import Mapping

_USUAL = {
    # settings
    "learning_rate": "lr eta learning_rate_init step_size",
    "batch_size": "batch bs minibatch batchsize",
    "epochs": "n_epochs num_epochs max_epochs max_iter iterations n_iter",
    "hidden": "hidden_layers hidden_layer_sizes hidden_sizes hidden_units layers units",
    "optimizer": "optim opt solver",
    "schedule": "scheduler lr_schedule lr_scheduler learning_rate_schedule",
    "activation": "activation_function act",
    "loss": "criterion objective loss_function",
    "target": "y label label_column target_column",
    "out": "output o model_out save",
    "validation": "val val_split validation_split validation_fraction",
    "test": "test_size test_split",
    "patience": "early_stopping n_iter_no_change",
    "l2": "alpha weight_decay lambda",
    "seed": "random_state random_seed",
    "weight_column": "sample_weight weights",
    "delimiter": "sep separator",
    "exclude": "drop ignore",
    "device": "gpu cuda",
    # losses
    "squared_error": "mse l2_loss mean_squared_error rmse",
    "absolute_error": "mae l1_loss mean_absolute_error",
    "softmax_cross_entropy": "cross_entropy crossentropy categorical_crossentropy ce log_loss nll",
    "binary_cross_entropy": "bce binary_crossentropy bce_with_logits",
    "huber": "smooth_l1",
    "pinball": "quantile quantile_loss",
    # activations
    "silu": "swish",
    "logistic": "sigmoid",
    "identity": "linear none",
    "leaky_relu": "leakyrelu lrelu",
    # update rules
    "momentum": "sgdm",
    "nesterov": "nag",
    "lbfgs": "l_bfgs bfgs",
    # starting weights
    "glorot_uniform": "xavier xavier_uniform glorot",
    "glorot_normal": "xavier_normal",
    "he_uniform": "kaiming_uniform",
    "he_normal": "kaiming kaiming_normal he",
    # schedules
    "cosine": "cosine_annealing cosineannealing",
    "one_cycle": "onecycle 1cycle",
    "exponential": "exp",
}

OTHER_NAMES: Mapping[str, str] = {other: name for name, others in _USUAL.items() for other in others.split()}
"""Our name by the other, in small letters with underscores; what it means depends on what is known there."""
