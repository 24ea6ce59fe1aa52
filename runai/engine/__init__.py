"""Drawing: the one room that knows torch and diffusers.

It finds models on disk (`catalogue`, `detection`), loads them (`loading`, `cache`), starts
samples (`prompts`, `starts`, `samplers`) and moves them on one denoising step at a time
(`step_loop`), behind one facade (`engine.TorchEngine`). It knows no job, no thread and no
socket, opens no connection and writes no file.
"""
