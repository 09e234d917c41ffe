"""Tables that the test harness created."""

from django.db import models


class Product(models.Model):
    id = models.IntegerField(primary_key=True)
    name = models.TextField()
    price = models.IntegerField()
    stock = models.IntegerField()

    class Meta:
        managed = False
        db_table = "products"


class Order(models.Model):
    product = models.ForeignKey(Product, on_delete=models.DO_NOTHING)
    quantity = models.IntegerField()
    note = models.TextField()

    class Meta:
        managed = False
        db_table = "orders"
