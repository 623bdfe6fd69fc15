# docker build -t keras_freeze .
# docker run --rm -v "$PWD/demo-output:/app/demo-output" keras_freeze
FROM python:3.12-slim

WORKDIR /app

# Requirements change seldom and weigh much, so they get a layer of their own.
COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt

COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY keras_freeze keras_freeze
RUN pip install --no-cache-dir ".[demo]"

# No start-up messages of TensorFlow.
ENV TF_CPP_MIN_LOG_LEVEL=3
ENTRYPOINT ["python", "-m", "keras_freeze"]
CMD ["demo"]
