"""Functions whose calls are counted by those who call them."""


class Item:
    def __init__(self, number):
        self.number = number


def step(number):
    double = number * 2
    item = Item(number)
    return double + item.number  # break: step


def spin(rounds):
    total = 0
    for number in range(rounds):
        total += number & 7  # break: spin
    return total
