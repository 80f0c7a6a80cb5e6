"""What several commands share; of the commands and the other rooms it knows nothing.

For all: ``cli`` reads command lines and ends in one line, ``folders`` gives a folder to one process, ``records`` writes
what was found and where, ``progress`` tells how far it is, ``counting`` what models cost, ``statistics`` what may be
said; ``study`` makes a script of a few functions, and ``pages`` a page of a template.

For runs of the training script: ``train_config`` has its options, ``trainer`` Lightning's trainer, ``resuming`` and
``run_data`` what it takes to go on, ``images`` pictures for a trained model, and ``parent`` ends those that a suite
started with it.
"""
