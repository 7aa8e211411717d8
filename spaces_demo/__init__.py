"""
The Gradio Space: hear, see and compare what a model says about songs.

`python -m spaces_demo.app` runs it anywhere; `python -m spaces_demo.deploy` puts it on Hugging Face Spaces. It goes
through the public door only: what `modeling_apex` exports.
"""
