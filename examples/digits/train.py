"""Train a small neural network to read handwritten digits, and say how well it does."""

from data import load
from sklearn.neural_network import MLPClassifier

EPOCHS = 20
SEED = 7


def main() -> None:
    """Train, with a line for each epoch; the last line is the accuracy on digits that it has not seen before."""
    train, test = load(SEED)
    print(f"{len(train.digits)} digits to learn from, {len(test.digits)} to be judged by", flush=True)
    model = MLPClassifier(hidden_layer_sizes=(256, 128), batch_size=32, learning_rate_init=0.0003, random_state=SEED)
    for epoch in range(1, EPOCHS + 1):
        model.partial_fit(train.images, train.digits, classes=range(10))
        print(f"epoch {epoch:2}/{EPOCHS}  loss {model.loss_:.4f}  accuracy {model.score(*test):.4f}", flush=True)
    print(f"accuracy: {model.score(*test):.2f}")


if __name__ == "__main__":
    main()
