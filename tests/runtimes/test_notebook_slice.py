"""Which statements a name needs. Each program marks with `#*` what is to be taken."""

from __future__ import annotations

import ast
import textwrap

import pytest

from hansang.runtimes.notebook_slice import needed

PROGRAMS = {
    "a trained model, with what it was trained on, and no plots, prints or other models": """
        import numpy as np #*
        import pandas as pd #*
        import matplotlib.pyplot as plt
        from sklearn.linear_model import LogisticRegression #*
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.preprocessing import StandardScaler #*
        np.random.seed(0) #*
        df = pd.read_csv("x.csv") #*
        df.head()
        df["a"] = df["a"].fillna(0) #*
        df.plot()
        X, y = df[["a"]], df.y #*
        scaler = StandardScaler() #*
        X = scaler.fit_transform(X) #*
        forest = RandomForestClassifier()
        forest.fit(X, y)
        print(forest.score(X, y))
        model = LogisticRegression() #*
        model.fit(X, y) #*
        plt.plot(X)
        plt.show()
        guessed = model.predict(X)
        fig, ax = plt.subplots()
        ax.scatter(X, y)
        labels = {0: "no", 1: "yes"} #*
        def clean(v): return np.array([v]) #*
        def predict(a: float) -> str: return labels[int(model.predict(scaler.transform(clean(a)))[0])] #*
        print(predict(1))
        df = pd.read_csv("another.csv")
        df.info()
    """,
    "a training loop of this network, not of the other one": """
        import torch #*
        from torch import nn #*
        torch.manual_seed(1) #*
        class Net(nn.Module): #*
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(WIDTH, 1)
            def forward(self, x): return self.layer(x)
        WIDTH = 3 #*
        X = torch.rand(4, 2); y = torch.rand(4, 1) #*
        criterion = nn.MSELoss() #*
        other = Net()
        other_optimizer = torch.optim.SGD(other.parameters())
        for epoch in range(10):
            other_optimizer.zero_grad()
            criterion(other(X), y).backward()
            other_optimizer.step()
        net = Net() #*
        optimizer = torch.optim.Adam(net.parameters()) #*
        for epoch in range(10): #*
            optimizer.zero_grad()
            loss = criterion(net(X), y)
            loss.backward()
            optimizer.step()
        torch.save(net.state_dict(), "net.pth")
        net.eval() #*
        predict = lambda a, b: float(net(torch.tensor([a, b]))) #*
    """,
    "a training function, whose result is plotted": """
        def train(model, data, epochs=3): #*
            for epoch in range(epochs): model.step(data)
            return [1, 2]
        def evaluate(model, data): return model.score(data)
        data = [1, 2, 3] #*
        test_data = [4]
        model = Model() #*
        losses = train(model, data) #*
        evaluate(model, test_data)
        def plot_losses(): show(losses); model.eval()
        plot_losses()
        class Model: #*
            def step(self, data): self.w = data
        def predict(x): return model.w #*
    """,
    "a training function that steps an optimizer": """
        def train(m, optimizer): #*
            for epoch in range(3):
                loss = lossy(m(DATA))
                optimizer.step()
        def lossy(x): return x #*
        DATA = 1 #*
        def make_model(): ... #*
        from helpers import make_optimizer #*
        model = make_model() #*
        optimizer = make_optimizer(model) #*
        train(model, optimizer) #*
        other = make_model()
        train(other, make_optimizer(other))
        def predict(x): return model(x) #*
    """,
    "a training function without arguments": """
        weights = [0, 0] #*
        other = [0]
        def train(): weights[0] += RATE #*
        def train_other(): other[0] += RATE
        RATE = 0.1 #*
        train() #*
        train_other()
        def predict(x): return weights #*
    """,
    "a training method": """
        class Gate: #*
            def __init__(self): self.w = 0
            def train(self): self.w = 1
            def weigh(self): return self.w
        gate = Gate() #*
        gate.weigh()
        gates = make().train()
        history = gate.train() #*
        def predict(x): return gate.w #*
    """,
    "a model inside another": """
        class Scaler: ... #*
        class Model: ... #*
        class Pipeline: ... #*
        class Trainer: ... #*
        scaler = Scaler() #*
        model = Model() #*
        pipe = Pipeline([scaler, model]) #*
        scaler.fit([1]) #*
        trainer = Trainer(model=model) #*
        trainer.run_all() #*
        Trainer(model).run_all() #*
        Trainer(Model()).run_all()
        def predict(x): return pipe(x) #*
    """,
    "a fit inside a print": """
        class Model: ... #*
        model = Model() #*
        print(model.fit([1]))  #*
        print(model.coef_)
        model
        def predict(x): return model(x) #*
    """,
    "what the environment is set up with": """
        import os #*
        import sys #*
        from dotenv import load_dotenv #*
        load_dotenv() #*
        sys.path.append("..") #*
        os.environ["A"] = "1" #*
        os.makedirs("out")
        import requests
        requests.post("http://example.com")
        def predict(x): return x #*
    """,
    "only the last of several definitions": """
        model = 1
        def predict(x): return model + x
        threshold = 1
        threshold = 2 #*
        def predict(x): return threshold + x #*
        import uvicorn
        uvicorn.run(predict)
    """,
    "every definition that a condition leaves open": """
        device = "cpu" #*
        def has_gpu(): return False #*
        if has_gpu(): #*
            device = "cuda"
        try: #*
            import fast as backend
        except ImportError:
            backend = None
        count = 1 #*
        count += 1 #*
        with open("labels.txt") as f: #*
            labels = f.read()
        def predict(x): return device, backend, count, labels #*
    """,
    "names that functions bind": """
        def init(): #*
            global memory
            memory = []
        init() #*
        counter = 0
        def count():
            global counter
            counter += 1
        count()
        def predict(x): return memory #*
    """,
    "names of their own scope do not count": """
        x = 1
        i = 2
        n = 3 #*
        rows = [i for i in range(n)] + [i for i in range(n)] #*
        pairs = {i: {i for i in range(3)} for i in rows} #*
        def predict(x): #*
            y = [i for i in rows if i in pairs]
            return max(y, key=lambda i: i + x)
        y = 5
    """,
    "a star import, where a name needs it": """
        from math import * #*
        import json
        def predict(x): return sqrt(x) #*
    """,
}


@pytest.mark.parametrize("about", PROGRAMS)
def test_it_takes(about: str) -> None:
    source = textwrap.dedent(PROGRAMS[about])
    lines = source.splitlines()
    statements = ast.parse(source).body
    chosen = needed(statements, "predict")
    taken = {index: index in chosen.indexes for index in range(len(statements))}
    wanted = {index: "#*" in lines[node.lineno - 1] for index, node in enumerate(statements)}
    wrong = [ast.unparse(statements[index]) for index in taken if taken[index] != wanted[index]]
    assert not wrong


def test_it_tells_what_nothing_binds() -> None:
    chosen = needed(ast.parse("def predict(x): return helper(x, len)\nother = missing").body, "predict")
    assert chosen.unbound == {"helper"}
    assert needed([], "predict").unbound == {"predict"}


def test_a_star_import_may_bind_anything() -> None:
    assert not needed(ast.parse("from helpers import *\ndef predict(x): return helper(x)").body, "predict").unbound
